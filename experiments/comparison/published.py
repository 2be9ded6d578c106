"""The paper's metrics by data set and by method (Tables 2 and 4).

The order is AUC, P@5% and R@5% on small seed sets, then on large ones. Table 4 has no R@5%, and
covers only the Tencent data.
"""

from __future__ import annotations

Metrics = tuple[float | None, ...]

#: Table 2, in the paper's order.
_TENCENT: dict[str, Metrics] = {
    "lr": (0.5942, 0.1015, 0.1044, 0.6824, 0.1910, 0.2006),
    "mlp-one-stage": (0.5928, 0.1048, 0.1081, 0.6910, 0.1797, 0.1888),
    "mlp-embeddings": (0.6624, 0.1881, 0.1930, 0.7060, 0.2118, 0.2224),
    "pinterest": (0.6245, 0.1635, 0.1665, 0.6802, 0.1687, 0.1770),
    "hubble": (0.6797, 0.2056, 0.2110, 0.7085, 0.2171, 0.2279),
    "mlp-pretraining": (0.7117, 0.2325, 0.2384, 0.7082, 0.2136, 0.2242),
    "shared-bottom": (0.6936, 0.2198, 0.2258, 0.7089, 0.2144, 0.2250),
    "mmoe": (0.6977, 0.2224, 0.2280, 0.7088, 0.2150, 0.2257),
    "metaheac": (0.7239, 0.2489, 0.2554, 0.7142, 0.2244, 0.2356),
}
_WECHAT: dict[str, Metrics] = {
    "lr": (0.5654, 0.1351, 0.0742, 0.6711, 0.2166, 0.1182),
    "mlp-one-stage": (0.6663, 0.2477, 0.1363, 0.6970, 0.2605, 0.1419),
    "mlp-embeddings": (0.7143, 0.3058, 0.1684, 0.7217, 0.2988, 0.1628),
    "pinterest": (0.6289, 0.1947, 0.1066, 0.7044, 0.2639, 0.1439),
    "hubble": (0.7391, 0.3524, 0.1936, 0.7243, 0.3062, 0.1668),
    "mlp-pretraining": (0.7440, 0.3473, 0.1908, 0.7272, 0.3030, 0.1673),
    "shared-bottom": (0.7271, 0.3093, 0.1700, 0.7275, 0.3052, 0.1663),
    "mmoe": (0.7368, 0.3265, 0.1797, 0.7292, 0.3051, 0.1675),
    "metaheac": (0.7607, 0.3839, 0.2110, 0.7323, 0.3133, 0.1707),
}
_ABLATION: dict[str, Metrics] = {
    "without-hc": (0.7199, 0.2472, None, 0.7115, 0.2220, None),
    "without-he": (0.7181, 0.2419, None, 0.7112, 0.2193, None),
    "without-meta": (0.7173, 0.2431, None, 0.7107, 0.2180, None),
}

PUBLISHED: dict[str, dict[str, Metrics]] = {
    "tencent": _TENCENT | _ABLATION,
    "wechat": _WECHAT,
}
#: The methods of Table 2, the candidates for the best other published method.
COMPETING = tuple(_TENCENT)
#: The methods of Table 4, and the control with the meta-step's batches and no inner step.
ABLATION = ("metaheac", *_ABLATION, "alpha-0")
#: Methods in Table 4 only.
ABLATION_ONLY = ("without-hc", "without-he")
