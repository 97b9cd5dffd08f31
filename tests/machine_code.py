"""What tests of machine code and of the graphs that it is in share."""

from stylekeras.native.writer import Shape

# Whatever the processor: shapes that it has no registers for are compiled to several instructions each.
SHAPES = {
    "of this processor": None,
    "AVX512": Shape(16, 6, 64),
    "AVX": Shape(8, 6, 16),
    "NEON": Shape(4, 6, 16),
    "other": Shape(4, 4, 8),
}


def needed(model):
    """The nodes that a result of an OpenVINO model needs."""
    waiting, seen = [result.get_node() for result in model.outputs], {}
    while waiting:
        node = waiting.pop()
        if seen.setdefault(node.get_friendly_name(), node) is node:
            waiting += [each.get_node() for each in node.input_values()]
    return list(seen.values())
