"""Parameter counts of the official code's models, measured on it: what a configuration must have.

The official code has them for 39 fields with 5343 ids (Criteo) and for 22 with 1705 (Avazu), at scales 1, 2, 3, 4, 10.
`ipnn_no_linear` is its multi-embedding IPNN, which leaves the embeddings out.
"""

SCALES = (1, 2, 3, 4, 10)
SUM_CARDINALITIES = {39: 5343, 22: 1705}
BASE_SIZES = {"nfwfm": 50}
"""Columns of the table at scale 1, where they are not 10; the table has sum of cardinalities x scale x base size."""
DENSE: dict[tuple[str, int, str], tuple[int, ...]] = {
    ("dcnv2", 39, "se"): (928761, 2911521, 6111081, 10527441, 62578401),
    ("dnn", 39, "se"): (318801, 474801, 630801, 786801, 1722801),
    ("ipnn", 39, "se"): (615201, 771201, 927201, 1083201, 2019201),
    ("nfwfm", 39, "se"): (184422, 204522, 224622, 244722, 365322),
    ("xdeepfm", 39, "se"): (353186, 509186, 665186, 821186, 1757186),
    ("finalmlp", 39, "se"): (797602, 1109602, 1421602, 1733602, 3605602),
    ("dcnv2", 39, "me"): (928761, 1695921, 2463081, 3230241, 7833201),
    ("dnn", 39, "me"): (318801, 476001, 633201, 790401, 1733601),
    ("ipnn_no_linear", 39, "me"): (459201, 756801, 1054401, 1352001, 3137601),
    ("nfwfm", 39, "me"): (184422, 207243, 230064, 252885, 389811),
    ("xdeepfm", 39, "me"): (353186, 544738, 736290, 927842, 2077154),
    ("finalmlp", 39, "me"): (797602, 1434402, 2071202, 2708002, 6528802),
    ("dcnv2", 22, "se"): (445281, 1114961, 2171841, 3615921, 20411601),
    ("dnn", 22, "se"): (250801, 338801, 426801, 514801, 1042801),
    ("ipnn", 22, "se"): (343201, 431201, 519201, 607201, 1135201),
    ("nfwfm", 22, "se"): (183385, 203485, 223585, 243685, 364285),
    ("xdeepfm", 22, "se"): (264242, 352242, 440242, 528242, 1056242),
    ("finalmlp", 22, "se"): (661602, 837602, 1013602, 1189602, 2245602),
    ("dcnv2", 22, "me"): (445281, 728961, 1012641, 1296321, 2998401),
    ("dnn", 22, "me"): (250801, 340001, 429201, 518401, 1053601),
    ("ipnn_no_linear", 22, "me"): (255201, 348801, 442401, 536001, 1097601),
    ("nfwfm", 22, "me"): (183385, 205169, 226953, 248737, 379441),
    ("xdeepfm", 22, "me"): (264242, 366850, 469458, 572066, 1187714),
    ("finalmlp", 22, "me"): (661602, 1162402, 1663202, 2164002, 5168802),
}
"""(model, number of fields, embed) -> parameters outside the table, at SCALES."""
