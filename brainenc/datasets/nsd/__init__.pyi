from .download import download_nsd as download_nsd
from .download import nsd_files as nsd_files
from .imagery import load_nsd_imagery as load_nsd_imagery
from .load import convert_nsd as convert_nsd
from .load import load_nsd as load_nsd
from .load import shared_test_mask as shared_test_mask
from .synthetic import load_nsd_synthetic as load_nsd_synthetic
