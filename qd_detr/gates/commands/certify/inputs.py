"""The real samples that a certificate is tried on."""

from __future__ import annotations

from qd_detr.gates.commands.certify.request import CertificateRequest
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.samples import Samples, open_samples
from qd_detr.gates.weights.options import Settings


def requested_samples(request: CertificateRequest, settings: Settings) -> Samples | None:
    """Return the request's samples as a model with these settings takes them; None if it names no data.

    Raises:
        RequestError: annotations or features that cannot be used.
    """
    if request.sources is None:
        return None
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    return open_samples(spec, request.sources, skip_missing=request.skip_missing, progress=not request.quiet)
