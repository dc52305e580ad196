"`python -m rsguided COMMAND ...`, for launchers such as `accelerate launch -m rsguided train ...`"
import sys
from rsguided.cli import main

if __name__ == '__main__': sys.exit(main())
