"""Files of strangers to pixels: pictures and videos, decoded in a child process that may do nothing else.

`image` and `video` decode, `worker` runs them in the child, `child` is our end of it, `limits` what is allowed. Nothing
here imports the rest of Ingot, so that the child starts fast.
"""
