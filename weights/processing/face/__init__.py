"""Processing around the networks for faces: the cascade of MTCNN, alignment, poses and meshes."""
