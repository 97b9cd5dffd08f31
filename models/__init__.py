"""The cards of the weight sets, one TOML file each: where from, hashes, licence, preprocessing, layer names.

`stylekeras.weights.Card` says what each field means.
"""
