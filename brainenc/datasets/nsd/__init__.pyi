from .load import convert_nsd as convert_nsd
from .load import load_nsd as load_nsd
from .load import shared_test_mask as shared_test_mask
