from weights import frameworks

frameworks.load_triton_first()
