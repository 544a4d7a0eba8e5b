"""stub"""
def paper_cell(*a): return None
def reached(*a): return None
