"""Backbones, one file per family: taps model, preprocessing, stride. Adding a family is adding a file here.

A backbone module has `build(weights, taps, *, pooling, padding, dtype) -> model`; the model maps an image (1, h, w, 3)
float32 RGB in [0, 1] to a dict of the named taps, float32.
"""
