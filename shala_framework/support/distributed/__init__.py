"""The processes that train one model together, and layers that are sharded over them."""
