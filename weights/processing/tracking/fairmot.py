"""Identities in FairMOT: by appearance and motion first, then by position.

Numbers: ifzhang/FairMOT ``tracker/multitracker.py``, ``tracker/matching.py``, ``tracking_utils/kalman_filter.py``
(MIT).
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

__all__ = ["FairMOTTracker", "Kalman", "Track", "assign", "letterbox"]

POSITION, VELOCITY = 1 / 20, 1 / 160  # deviations by the height of a person
GATE = 9.4877  # of the squared Mahalanobis distance, 95 % with four degrees of freedom
LOOKS, OVERLAP, NEW_OVERLAP, SAME = 0.4, 0.5, 0.7, 0.15  # bounds of costs in the three rounds, and for two people
MOTION = 0.02  # share of the motion in the first round's cost
SMOOTH = 0.9  # share of the old description
FAR = 1e5
GREY = 127.5  # of the border around a frame


def letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """A frame as the network's input, with its proportions, centred on grey.

    Args:
        frame: (h, w, 3) uint8 RGB.
        size: height and width of the input, pixels.

    Returns:
        (1, 3, height, width) float32 in [0, 1]; pixels of the input per pixel of the frame; (2,) x and y of the frame's
        corner in the input.
    """
    scale = min(n / length for n, length in zip(size, frame.shape))
    height, width = (max(1, round(n * scale)) for n in frame.shape[:2])
    filters = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    found = np.full((*size, 3), GREY, np.float32)
    top, left = (round((n - length) / 2 - 0.1) for n, length in zip(size, (height, width)))
    found[top : top + height, left : left + width] = Image.fromarray(frame).resize((width, height), filters)
    return found.transpose(2, 0, 1)[None] / np.float32(255), scale, np.array([left, top])


class Kalman:
    """Centre, width / height, height, and their velocities."""

    motion = np.eye(8) + np.eye(8, k=4)

    @staticmethod
    def start(measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (8,) and covariance (8, 8) of a person seen first."""
        h = measured[3]
        std = [2 * POSITION * h, 2 * POSITION * h, 1e-2, 2 * POSITION * h]
        std += [10 * VELOCITY * h, 10 * VELOCITY * h, 1e-5, 10 * VELOCITY * h]
        return np.concatenate([measured, np.zeros(4)]), np.diag(np.square(std))

    @classmethod
    def predict(cls, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the state one frame later."""
        h = mean[3]
        std = [POSITION * h, POSITION * h, 1e-2, POSITION * h, VELOCITY * h, VELOCITY * h, 1e-5, VELOCITY * h]
        return cls.motion @ mean, cls.motion @ covariance @ cls.motion.T + np.diag(np.square(std))

    @staticmethod
    def project(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project the state to a measurement."""
        std = [POSITION * mean[3], POSITION * mean[3], 1e-1, POSITION * mean[3]]
        return mean[:4], covariance[:4, :4] + np.diag(np.square(std))

    @classmethod
    def update(cls, mean, covariance, measured) -> tuple[np.ndarray, np.ndarray]:
        """Correct the state by a measurement."""
        expected, spread = cls.project(mean, covariance)
        gain = np.linalg.solve(spread, covariance[:4]).T
        return mean + gain @ (measured - expected), covariance - gain @ spread @ gain.T

    @classmethod
    def distance(cls, mean, covariance, measured: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of measurements (D, 4), (D,)."""
        expected, spread = cls.project(mean, covariance)
        difference = measured - expected
        return (difference * np.linalg.solve(spread, difference.T).T).sum(1)


@dataclass
class Track:
    """The track of one person."""

    identity: int
    mean: np.ndarray
    covariance: np.ndarray
    looks: np.ndarray
    score: float
    start: int
    frame: int
    state: str = "tracked"  # or "lost"
    confirmed: bool = False
    box: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def extent(self) -> np.ndarray:
        """Box xyxy of where the person should be."""
        x, y, ratio, h = self.mean[:4]
        return np.array([x - ratio * h / 2, y - h / 2, x + ratio * h / 2, y + h / 2])


def measured_of(boxes: np.ndarray) -> np.ndarray:
    """Boxes xyxy (D, 4) as centre, width / height, height."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + size / 2, size[:, :1] / size[:, 1:], size[:, 1:]], 1)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of all pairs, both borders counted.  (A, 4), (B, 4) -> (A, B)."""
    first, last = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = np.maximum(last - first + 1, 0).prod(2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def assign(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Pairs of least total cost, where leaving a row and a column alone costs ``limit``.

    This is another rule than to assign all and drop what costs too much.
    """
    rows, columns = cost.shape
    if not cost.size:
        return []
    whole = np.full((rows + columns, rows + columns), limit / 2)
    whole[:rows, :columns] = np.where(np.isfinite(cost), cost, FAR)
    whole[rows:, columns:] = 0
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(whole)) if i < rows and j < columns]


class FairMOTTracker:
    """Gives detections identities, frame by frame.

    Args:
        threshold: score from which a detection counts, and starts a track.
        max_lost: frames after which a lost track is forgotten.
    """

    def __init__(self, threshold: float = 0.4, max_lost: int = 30):
        self.threshold, self.max_lost = threshold, max_lost
        self.tracks: list[Track] = []
        self.frame = self.count = 0

    def step(self, boxes: np.ndarray, scores: np.ndarray, embeddings: np.ndarray) -> list[Track]:
        """Update the tracks by a frame's detections; returns the confirmed tracks seen in it.

        Args:
            boxes: (D, 4) xyxy, pixels.
            scores: (D,).
            embeddings: (D, E) of unit length.
        """
        self.frame += 1
        kept = scores > self.threshold
        boxes, scores, embeddings = boxes[kept], scores[kept], embeddings[kept]
        measured = measured_of(boxes)
        pool = [t for t in self.tracks if t.confirmed or t.state == "lost"]
        waiting = [t for t in self.tracks if not t.confirmed and t.state == "tracked"]
        for track in pool:
            if track.state != "tracked":
                track.mean[7] = 0
            track.mean, track.covariance = Kalman.predict(track.mean, track.covariance)

        cost = np.zeros((len(pool), len(boxes)))
        for i, track in enumerate(pool):
            if len(boxes):
                gone = Kalman.distance(track.mean, track.covariance, measured)
                looks = np.maximum(0, 1 - embeddings @ track.looks)
                looks[gone > GATE] = np.inf
                cost[i] = (1 - MOTION) * looks + MOTION * gone
        pairs = assign(cost, LOOKS)
        for i, j in pairs:
            self._see(pool[i], measured[j], boxes[j], scores[j], embeddings[j])
        left = [i for i in range(len(pool)) if i not in {i for i, _ in pairs} and pool[i].state == "tracked"]
        free = [j for j in range(len(boxes)) if j not in {j for _, j in pairs}]

        pairs = self._near([pool[i] for i in left], boxes, free, OVERLAP)
        for i, j in pairs:
            self._see(pool[left[i]], measured[j], boxes[j], scores[j], embeddings[j])
        for i in set(range(len(left))) - {i for i, _ in pairs}:
            pool[left[i]].state = "lost"
        free = [j for j in free if j not in {j for _, j in pairs}]

        pairs = self._near(waiting, boxes, free, NEW_OVERLAP)
        for i, j in pairs:
            self._see(waiting[i], measured[j], boxes[j], scores[j], embeddings[j])
        forgotten = {id(waiting[i]) for i in set(range(len(waiting))) - {i for i, _ in pairs}}
        free = [j for j in free if j not in {j for _, j in pairs}]

        for j in free:
            self.count += 1
            state = Kalman.start(measured[j])
            track = Track(self.count, *state, embeddings[j], float(scores[j]), self.frame, self.frame, box=boxes[j])
            track.confirmed = self.frame == 1
            self.tracks.append(track)
        old = self.frame - self.max_lost
        self.tracks = [t for t in self.tracks if id(t) not in forgotten and (t.state == "tracked" or t.frame >= old)]
        self._drop_twins()
        return [t for t in self.tracks if t.confirmed and t.state == "tracked"]

    @staticmethod
    def _near(tracks, boxes, free, limit) -> list[tuple[int, int]]:
        """Pairs of track and detection whose boxes overlap."""
        if not tracks or not free:
            return []
        cost = 1 - overlaps(np.stack([track.extent() for track in tracks]), boxes[free])
        return [(i, free[j]) for i, j in assign(cost, limit)]

    def _see(self, track: Track, measured, box, score, embedding) -> None:
        """Add a detection to a track."""
        track.mean, track.covariance = Kalman.update(track.mean, track.covariance, measured)
        looks = SMOOTH * track.looks + (1 - SMOOTH) * embedding
        track.looks = looks / np.linalg.norm(looks)
        track.box, track.score, track.frame = box, float(score), self.frame
        track.state, track.confirmed = "tracked", True

    def _drop_twins(self) -> None:
        """Of a tracked and a lost person at one place, forget the one with the shorter track."""
        seen = [t for t in self.tracks if t.state == "tracked"]
        lost = [t for t in self.tracks if t.state == "lost"]
        if not seen or not lost:
            return
        shared = overlaps(np.stack([t.extent() for t in seen]), np.stack([t.extent() for t in lost]))
        twins = set()
        for i, j in zip(*np.nonzero(1 - shared < SAME)):
            older = seen[i].frame - seen[i].start > lost[j].frame - lost[j].start
            twins.add(id(lost[j] if older else seen[i]))
        self.tracks = [t for t in self.tracks if id(t) not in twins]
