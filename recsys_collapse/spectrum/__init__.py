"""Singular spectra and collapse metrics of embedding tables: a library of its own, pure torch.

    from recsys_collapse.spectrum import TableSpectra, singular_values, spectrum_metrics

    sigma = singular_values(table)                                  # one table (D, C), streamed: no copy of it
    spectrum_metrics(sigma.unsqueeze(0))["information_abundance"]   # every metric of it
    for field in TableSpectra(table, field_slices, num_sets).spectra(centred=True):
        field.metrics["effective_rank"], field.random_metrics["effective_rank"]

`gram.py` reads tables, `singular.py` has singular values, `metrics.py` what they mean, `random.py` what a random matrix
of the same shape has, `fields.py` all of it for the fields and embedding sets of a fused table. docs/metrics.md
explains the metrics.
"""

from recsys_collapse.spectrum.fields import (
    FieldSpectrum,
    TableSpectra,
    abundance_of_fields,
    field_spectra,
    mean_relative,
)
from recsys_collapse.spectrum.gram import Moments, Rows, field_grams, field_moments, set_grams, unit_norm_gram
from recsys_collapse.spectrum.metrics import METRICS, information_abundance, spectrum_metrics, why_null
from recsys_collapse.spectrum.random import Reference, random_information_abundance, random_metrics, random_spectrum
from recsys_collapse.spectrum.singular import singular_spectrum, singular_values, triangular_factor

__all__ = [
    "METRICS",
    "FieldSpectrum",
    "Moments",
    "Reference",
    "Rows",
    "TableSpectra",
    "abundance_of_fields",
    "field_grams",
    "field_moments",
    "field_spectra",
    "information_abundance",
    "mean_relative",
    "random_information_abundance",
    "random_metrics",
    "random_spectrum",
    "set_grams",
    "singular_spectrum",
    "singular_values",
    "spectrum_metrics",
    "triangular_factor",
    "unit_norm_gram",
    "why_null",
]
