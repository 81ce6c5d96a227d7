"""The controller: what terminates on the nodes of a cluster and keeps its memory is released without anybody asking."""
