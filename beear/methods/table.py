"""The methods by name. A new one needs a file and an entry here, or an entry point ``beear.methods`` of another package."""

from beear.extensions import Table
from beear.methods import beear, finetune
from beear.methods.method import Method

METHODS: Table[Method] = Table("beear.methods", Method, [beear.METHOD, finetune.METHOD])
