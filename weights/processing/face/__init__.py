"""What surrounds the networks of faces: the cascade of MTCNN, alignment, poses and meshes."""
