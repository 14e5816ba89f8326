"""What surrounds the networks of bodies: heat maps of joints, poses, skins."""
