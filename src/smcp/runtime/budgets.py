"""What may wait, counted."""


class Budget:
    """Bytes that the hosted servers of one tenant may have waiting in the platform's memory, over all of them."""

    __slots__ = ("__weakref__", "_left")

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Whether `size` bytes more may wait; they count until `give`."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """So many bytes wait no more."""
        self._left += size
