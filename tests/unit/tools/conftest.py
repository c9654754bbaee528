"""Tools read what stages make: their tests share the fixtures of the stages' tests."""

from tests.unit.stages.conftest import echo as echo
from tests.unit.stages.conftest import folders as folders
from tests.unit.stages.conftest import prepared as prepared
