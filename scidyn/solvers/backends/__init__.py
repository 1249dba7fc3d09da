"""Known libraries behind ``backend=``: the same arguments and the same Solution."""
