"""Runs one prompt through Ingot and through another implementation, and names the first tensor in which they part.

asked              the prompt: ids, positions, perhaps a picture
recording          what every operation of Ingot's graph computed, by tensor name; the graph does not know
transformers_side  the same of transformers, under the same names
comparison         the two side by side, in execution order
diagnosis          the operation where they part, computed once more as defined and under each known mistake
traps, vision_traps  those mistakes
"""
