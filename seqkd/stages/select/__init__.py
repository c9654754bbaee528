"""The stage `select`: select a distilled corpus from k-best lists."""
