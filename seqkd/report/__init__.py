"""What the report shows and how: `contents` gathers, `findings` concludes, `plots` and `graph` draw, `page` sets it."""

import logging

# Matplotlib tells that it has no home for its cache, or is looking for fonts: nothing that a report depends on. Set
# before anything imports it, since it says the first of these then.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
