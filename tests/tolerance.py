"""Every tolerance of the suite, each with its reason. Identities have none: they are tested with ==."""

# Two fp32 implementations that sum in another order, through up to 8 random layers: 5e-6 of the logits' scale seen; the
# project promises 2e-4.
LOGITS_OF_SCALE = 2e-4

# fp32 against an fp64 formula of the MTP head: one layer deep, 1e-6 seen.
MTP_OF_SCALE = 1e-5

# Reference against torch, whole models in fp32: chunked and token-by-token delta rules differ by rounding, 2e-6 seen.
OP_SETS_OF_SCALE = 2e-5

# One native operation against its numpy definition: sums of at most 1,100 fp32 terms in another order, 1e-6 seen.
NATIVE_OP_OF_SCALE = 3e-6

# Attention over keys in bf16 or q8 against its definition over the same stored keys: q and the probabilities are
# rounded to 8 bits, 5e-3 seen.
KV_OF_SCALE = 2e-2

# A quantised block in fp32 against its formula in fp64: two products and a difference, 1e-7 seen.
DEQUANTISED_OF_SCALE = 1e-6

# log(exp(A_log)), both rounded to fp32, for A_log up to 2.8: half a place of exp is 6e-8 in its logarithm.
LOG_OF_EXP = 2.5e-7

# Logits of a GGUF beside its checkpoint's, in fp32: A_log went through exp and log, 1e-6 seen.
DECAY_OF_SCALE = 1e-5
