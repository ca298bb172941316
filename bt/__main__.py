"""python -m bt"""

from bt.cli import main

main()
