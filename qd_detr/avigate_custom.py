"""The fusion under the name that checkouts of QD-DETR with AVIGATE know it by."""

from qd_detr.gates.fusion import AVIGATEFusionCustom as AVIGATEFusionCustom
