"""Objects (blobs): the interface (`base`) and its back ends."""
