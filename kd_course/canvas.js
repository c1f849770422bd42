// A 28×28 drawing area. Pointer: press and draw. Keyboard: arrows move, space lifts or lowers the pen, Delete clears.
const SIZE = 28;
const SCALE = 10; // screen pixels per pixel of the digit

function render({ model, el }) {
  const pixels = Uint8Array.from(model.get("value"));
  let cursor = [14, 14];
  let penDown = false;
  let last = null; // where the pointer was, while it is pressed

  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE * SCALE;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute(
    "aria-label",
    "Drawing area for a digit, 28 by 28. Arrow keys move the pen, space lifts or lowers it, Delete clears.",
  );
  Object.assign(canvas.style, { border: "1px solid #666666", cursor: "crosshair", touchAction: "none" });
  const status = document.createElement("div");
  status.setAttribute("aria-live", "polite");
  const clear = document.createElement("button");
  clear.textContent = "Clear";
  el.replaceChildren(canvas, status, clear);

  const context = canvas.getContext("2d");

  function paint() {
    for (let y = 0; y < SIZE; y++) {
      for (let x = 0; x < SIZE; x++) {
        const shade = 255 - pixels[y * SIZE + x];
        context.fillStyle = `rgb(${shade}, ${shade}, ${shade})`;
        context.fillRect(x * SCALE, y * SCALE, SCALE, SCALE);
      }
    }
    if (document.activeElement === canvas) {
      context.strokeStyle = penDown ? "#cc503e" : "#1d6996";
      context.lineWidth = 2;
      context.strokeRect(cursor[0] * SCALE, cursor[1] * SCALE, SCALE, SCALE);
    }
    status.textContent = `Draw with the pointer, or with arrows and space. Pen ${penDown ? "down" : "up"}.`;
  }

  function dab([x, y]) {
    for (let row = Math.max(0, Math.floor(y) - 2); row <= Math.min(SIZE - 1, y + 2); row++) {
      for (let column = Math.max(0, Math.floor(x) - 2); column <= Math.min(SIZE - 1, x + 2); column++) {
        const ink = Math.max(0, Math.min(1, 1.9 - Math.hypot(column - x, row - y)));
        const place = row * SIZE + column;
        pixels[place] = Math.max(pixels[place], Math.round(255 * ink));
      }
    }
  }

  function stroke(from, to) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let step = 0; step <= steps; step++) {
      dab(from.map((start, axis) => start + ((to[axis] - start) * step) / steps));
    }
  }

  function share() {
    model.set("value", Array.from(pixels));
    model.save_changes();
    paint();
  }

  function wipe() {
    pixels.fill(0);
    share();
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((v) => (v / box.width) * SIZE - 0.5);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    dab(last);
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return;
    stroke(last, place(event));
    last = place(event);
    paint();
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
    share();
  });
  canvas.addEventListener("focus", paint);
  canvas.addEventListener("blur", paint);
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      cursor = cursor.map((value, axis) => Math.max(0, Math.min(SIZE - 1, value + moves[event.key][axis])));
    } else if (event.key === " ") {
      penDown = !penDown;
    } else if (event.key === "Delete" || event.key === "Backspace") {
      wipe();
    } else {
      return; // Tab and all else go where they always go
    }
    event.preventDefault();
    event.stopPropagation(); // or the notebook would take the keys for commands of its own
    if (penDown) {
      dab(cursor);
      share();
    } else {
      paint();
    }
  });
  clear.addEventListener("click", wipe);
  model.on("change:value", () => {
    pixels.set(model.get("value"));
    paint();
  });
  paint();
}

export default { render };
