"""Those who do the work: fedpriv, its rivals, and loops written by hand. Each runs in a process of its own."""
