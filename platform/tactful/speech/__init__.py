"""Spoken questions: decoding of audio, transcribers, matching of titles by sound.

It may import `config`, `errors`, `util`.
Begin with `transcriber`.
"""
