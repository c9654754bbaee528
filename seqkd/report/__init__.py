"""What the report shows and how: `contents` gathers, `findings` concludes, `plots` and `graph` draw, `page` sets it."""
