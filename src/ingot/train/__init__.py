"""Training over the torch op set: packing, loss, optimiser groups by role, schedule, checkpoints. The recipes put
them together.
"""
