"""The intent model (LSTM), its tokens, baselines and exports.

It imports no other sub-package of `tactful_federated`. Begin with `lstm_torch`.
"""
