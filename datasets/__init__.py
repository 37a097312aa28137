"""Zips of images that a LoRA training reads: checks of one that a caller sends, and building one from its images. Also
checks of the weights that a training makes.

All functions block: they read whole files, in blocks, and unpack them in memory only. Sources: the zip format is
PKWARE's APPNOTE 6.3.10; trainers read a zip as `extract_zip` of github.com/replicate/flux-fine-tuner (train.py) does.
"""
