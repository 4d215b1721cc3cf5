"""Speed and memory of the models beside other libraries' ResNet-50.

    python -m benchmarks.models --device cpu|gpu [--budget SECONDS] [--out FILE.json] [--plot FILE.svg]

A comparison is one task (inference, or a training step: forward, backward, SGD with momentum) in one way (eager,
compiled, ...), batch and precision. Its contenders hold the same weights, and outputs that differ are an error. Each
runs in a process of its own; the processes take turns, round after round, each call being waited for. Reported are the
median and quartiles of a call, the first call (which compiles) apart, the ratio to the fastest peer round by round,
and the peak memory: growth of the resident set on a CPU, the allocator's peak on a card.

Precisions: "float32" is strict (TF32 off), "tf32" allows TF32 in convolutions and matrix products, "bfloat16" is
autocast in PyTorch and the compute dtype, beside float32 parameters, in Flax and Keras.
"""
