"""Processing around the networks for bodies: heat maps of joints, poses, skins."""
