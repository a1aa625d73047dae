"""Starting, speaking to and stopping the running copies of hosted servers."""
