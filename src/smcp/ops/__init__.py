"""Operations: what a person who runs the platform needs to know about this machine."""
