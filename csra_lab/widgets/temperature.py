"""Explorer of the temperature: a softmax on its way from the mean to the maximum."""

import traitlets

from csra_lab.widgets.base import Explorer, as_temperature, module


class TemperatureExplorer(Explorer):
    """Scores as bars to drag, their softmax weights, and the attended score on its way from the mean to the maximum.

    Attributes:
        scores: 1 to 12 numbers from -4 to 4. temperature: from 0, or "inf". lam: lambda of the logit shown.
    """

    title = "Temperature explorer"
    _esm = module("temperature")
    scores = traitlets.List(
        traitlets.Float(min=-4, max=4), [-0.6, 0.2, -1.1, 0.4, 2.6, -0.3, 0.1, -0.8], minlen=1, maxlen=12
    ).tag(sync=True)
    temperature = traitlets.Any(1.0).tag(sync=True)
    lam = traitlets.Float(0.3).tag(sync=True)

    @traitlets.validate("temperature")
    def _temperature(self, proposal):
        return as_temperature(proposal["value"])
