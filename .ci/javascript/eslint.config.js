// What ESLint asks of the views' modules: that every name is there, and used, and that nothing fails silently.
import js from "@eslint/js";

const browser = Object.fromEntries(("document window console requestAnimationFrame cancelAnimationFrame setTimeout clearTimeout getComputedStyle " +
  "matchMedia innerWidth URL Blob Response DecompressionStream TextDecoder TextEncoder atob btoa Image ImageData File FileReader XMLSerializer " +
  "ResizeObserver IntersectionObserver MutationObserver HTMLElement Element Event CustomEvent KeyboardEvent CSS performance structuredClone createImageBitmap OffscreenCanvas " +
  "devicePixelRatio navigator Option").split(" ").map((name) => [name, "readonly"]));

export default [
  {
    ...js.configs.recommended,
    languageOptions: { ecmaVersion: "latest", sourceType: "module", globals: browser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      ...js.configs.recommended.rules,
      "array-callback-return": "error",
      "eqeqeq": "error",
      "no-constructor-return": "error",
      "no-implicit-globals": "error",
      "no-restricted-syntax": ["error", "ImportExpression", "ExportAllDeclaration", "WithStatement"],
      "no-self-compare": "error",
      "no-shadow": ["error", { builtinGlobals: false }],
      "no-unused-expressions": "error",
      "no-unused-vars": ["error", { args: "after-used" }],
      "no-use-before-define": ["error", { functions: false, classes: false, variables: false }],
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
    },
  },
  {
    files: ["**/host.js"], // a script: an expression that the page calls, and the one place that imports what it was given
    rules: { "no-unused-expressions": "off", "no-restricted-syntax": "off" },
  },
];
