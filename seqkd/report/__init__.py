"""The report: `gather` reads the folders, `findings` concludes, `plots` and `graph` draw, `page` renders."""

import logging

# Matplotlib logs that it has no home for its cache, or that it looks for fonts. Reports do not depend on either. The
# level is set before the first import, which logs the former.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
