"""The style image `brushwork.jpg`, made by `python examples/paint.py stylekeras/data/brushwork.jpg --seed 7`."""
