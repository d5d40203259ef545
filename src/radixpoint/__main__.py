"""``python -m radixpoint``."""

from radixpoint.cli.main import main

main()
