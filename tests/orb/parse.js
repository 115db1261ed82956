// Parses an expanded config, or the packed orb, with CircleCI's own parser of configs:
//
//   NODE_PATH=… node parse.js config|orb FILE
//
// It knows neither conditions nor orbs inside of orbs nor steps as parameters. So conditions are
// replaced by the steps in them, and the inner orb stands as an imported one.
const fs = require("fs");
const parser = require("@circleci/circleci-config-parser");
const YAML = require("yaml");

const flat = (steps) =>
  steps.flatMap((step) => {
    if (step.when || step.unless) return flat((step.when || step.unless).steps);
    return step.steps ? [] : [step];
  });

// The parser wants a command defined before it is used.
const inOrder = (commands) => {
  const sorted = {};
  const add = (name) => {
    if (!commands[name] || sorted[name]) return;
    const steps = flat(commands[name].steps);
    steps.forEach((step) => add(typeof step === "string" ? step : Object.keys(step)[0]));
    sorted[name] = { ...commands[name], steps };
  };
  Object.keys(commands).forEach(add);
  return sorted;
};

// It wants one of its own words for a size and an executor.
const withDefaults = (component, keys) => {
  const filled = { ...component };
  for (const key of keys) {
    const text = JSON.stringify(filled[key] ?? null);
    const value = text.replace(/<< parameters\.(\w+) >>/g, (_, name) => component.parameters[name].default);
    filled[key] = JSON.parse(value);
  }
  return filled;
};

const parseOrb = (orb) => {
  const inner = orb.orbs.circleci.commands;
  parser.parseReusableCommands(inner);
  const parameters = Object.entries(inner).map(([name, command]) => [name, command.parameters]);
  const manifest = parser.parseOrbManifest({ commands: Object.fromEntries(parameters) });
  const imports = parser.parseOrbImports({ circleci: "circleci/inner@1.0.0" }, { circleci: manifest });
  const commands = parser.parseReusableCommands(inOrder(orb.commands), imports);
  const executors = Object.entries(orb.executors).map(([name, executor]) => {
    const { description, ...rest } = withDefaults(executor, ["docker", "machine", "resource_class"]);
    Object.keys(rest).forEach((key) => rest[key] ?? delete rest[key]);
    return parser.parseReusableExecutor(name, rest);
  });
  for (const [name, job] of Object.entries(orb.jobs)) {
    const filled = withDefaults({ ...job, steps: flat(job.steps) }, ["executor"]);
    parser.parseJob(name, filled, commands, executors, imports);
  }
};

const [kind, file] = process.argv.slice(2);
const text = fs.readFileSync(file, "utf8");
try {
  if (kind === "orb") parseOrb(YAML.parse(text));
  else parser.parseConfig(text);
} catch (error) {
  console.error(`${file}: ${error.message || JSON.stringify(error)}`);
  process.exit(1);
}
