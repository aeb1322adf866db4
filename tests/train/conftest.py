import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `import toy`, here and in the process with four devices
