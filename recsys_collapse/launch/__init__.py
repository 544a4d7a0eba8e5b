"""How the jobs of a sweep are planned, checked and started."""
