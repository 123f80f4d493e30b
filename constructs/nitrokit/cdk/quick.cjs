// V8's flag, which Node.js takes neither in NODE_OPTIONS nor by another way that a parent process has. Some hundred times the default: what checks one stack stays below.
require("node:v8").setFlagsFromString("--wasm-tiering-budget=1400000000");
