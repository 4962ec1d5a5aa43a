"""What applications and back ends are tested with: a scripted model, and more to come."""
