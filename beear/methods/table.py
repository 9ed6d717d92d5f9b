"""The methods by name. A new one needs a file and an entry here, or an entry point ``beear.methods`` of another package."""

from beear.config.schema import MethodConfig
from beear.extensions import Table
from beear.methods import beear, finetune
from beear.methods.method import Method

# A method's own fields are a field of ``method`` by its name, beside these.
_FIELDS = {*MethodConfig.model_fields, *beear.METHOD.section.model_fields}
METHODS: Table[Method] = Table("beear.methods", Method, [beear.METHOD, finetune.METHOD], taken=_FIELDS)
