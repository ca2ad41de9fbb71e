"""Triton kernels for recurrent layers: RNN (tanh, relu), GRU and LSTM, forward and backward.

Start at `kernels.function`, which is what other code calls; `kernels/README.md` explains how the
kernels work. This package imports torch and triton only.
"""
