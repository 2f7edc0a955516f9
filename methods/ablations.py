"""The paper's ablations of DreamBooth: the same code with other settings.

python -m benchmark run --methods dreambooth,dreambooth-no-prior
"""

from __future__ import annotations

from dataclasses import replace

from methods.dreambooth import DREAMBOOTH

#: All start from DreamBooth's settings in a suite.
_ABLATED = replace(DREAMBOOTH, variant_of="dreambooth")

#: Paper, Table 3: without the prior-preservation term.
NO_PRIOR = replace(_ABLATED, description="DreamBooth without prior preservation", prior_weight=0.0)

#: Paper, Table 4: a live subject is called an object's noun, and the other way round.
WRONG_CLASS = replace(_ABLATED, description="DreamBooth with a wrong class noun", noun="wrong")

#: Paper, Table 4: `a [V]`. Without a noun there is no prior prompt, so no prior term either.
NO_CLASS = replace(
    _ABLATED, description="DreamBooth without a class noun", noun="none", prior_weight=0.0
)

#: Paper, section 3.2: what the subject is called. A rare token, whatever the suite's own is ...
IDENTIFIER_SKS = replace(
    _ABLATED, description="DreamBooth with the rare token 'sks'", identifier="sks"
)

#: ... an existing word, which has to be parted from its meaning ...
IDENTIFIER_COMMON_WORD = replace(
    _ABLATED, description="DreamBooth with a common word as identifier", identifier="special"
)

#: ... or random characters, which fall apart into tokens with priors of their own.
IDENTIFIER_RANDOM_STRING = replace(
    _ABLATED,
    description="DreamBooth with random characters as identifier",
    identifier="xxy5syt00",
)
