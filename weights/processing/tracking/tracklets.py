"""Tracklets of Siam R-CNN: detections that surely belong together, and the best chain of those.

"Siam R-CNN: Visual Tracking by Re-Detection", 2019, arXiv:1911.12836, section 3.3 (tracklet dynamic programming).
Reference: VisualComputingInstitute/SiamR-CNN ``tracking/three_stage_tracker.py`` (MIT).
"""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Tracklet", "Tracklets"]

ALIKE = 0.3  # least similarity of a tracklet and a detection, and by how much it must beat all others
SHARES = (0.1, 0.9)  # of the scores against the first frame and against the first tracklet's newest features
DISTANCE = 7.0  # cost of a jump by the whole image from the end of a tracklet to the beginning of the next
MEMORY = 1500  # frames after which an ended tracklet can no longer be continued
NONE = -1e20  # score of a tracklet that no chain leads to


@dataclass
class Tracklet:
    """Detections of frames without a gap.

    Args:
        start, end: first frame, and the exclusive upper bound.
        first, last: boxes, xyxy in pixels.
        feature: of the last box.
        to_first, to_tracklet: scores of all its detections, against the first frame and against the first tracklet.
        score: of the best chain that ends with it.
    """

    start: int
    end: int
    first: np.ndarray
    last: np.ndarray
    feature: np.ndarray
    to_first: list = field(default_factory=list)
    to_tracklet: list = field(default_factory=list)
    score: float = NONE


class Tracklets:
    """The tracklets of one object.

    Args:
        box: (4,) xyxy in pixels, in frame 0.
        feature: of the box.
        image_size: height and width in pixels.
    """

    def __init__(self, box, feature, image_size: tuple[int, int]):
        box = np.asarray(box, float)
        self.scale, self.time = np.array([image_size[1], image_size[0]] * 2, float), 1
        self.all = [Tracklet(0, 1, box, box, feature, [1.0], [1.0], 0.0)]

    def active(self) -> list[Tracklet]:
        """Those that include the previous frame, in the order of the rows of ``similarity``."""
        return [tracklet for tracklet in self.all if tracklet.end == self.time]

    def update(self, boxes, features, scores, similarity, to_tracklet) -> tuple[np.ndarray, float]:
        """Join the detections of one frame to the tracklets, or begin new ones.

        Args:
            boxes: (D, 4) xyxy in pixels.
            features: D of them.
            scores: (D,) against the first frame.
            similarity: (A, D) of the active tracklets and the detections, 0 where these are too far apart.
            to_tracklet: (D,) similarity to the first tracklet's newest feature.

        Returns:
            The box (4,) of the object, and its certainty: below 0 if it is not seen now.
        """
        active = self.active()
        similarity = np.asarray(similarity, float).reshape(len(active), len(boxes))
        for j, box in enumerate(np.asarray(boxes, float)):
            owner = self._owner(similarity, j)
            if owner is None:
                tracklet = Tracklet(self.time, self.time, box, box, features[j])
                self.all.append(tracklet)
            else:
                tracklet = active[owner]
            tracklet.end, tracklet.last, tracklet.feature = self.time + 1, box, features[j]
            tracklet.to_first.append(float(scores[j]))
            tracklet.to_tracklet.append(float(to_tracklet[j]))
        self.time += 1
        for tracklet in self.active():
            if tracklet is not self.all[0]:
                tracklet.score = self._best(tracklet)
        return self._answer(max(self.all, key=lambda tracklet: tracklet.score))

    def _owner(self, similarity, j: int) -> int | None:
        """The tracklet that a detection belongs to without doubt."""
        column = similarity[:, j]
        if not column.size or column.max() <= ALIKE:
            return None
        i = int(column.argmax())
        least = column[i] - ALIKE
        alone = (similarity[i] >= least).sum() == 1 and (column >= least).sum() == 1
        return i if alone else None

    def _best(self, tracklet: Tracklet) -> float:
        """The score of the best chain that ends with a tracklet."""
        before = [other for other in self.all if other.end <= tracklet.start]
        newest = max((other.end for other in before), default=0)
        own = SHARES[0] * sum(tracklet.to_first) + SHARES[1] * sum(tracklet.to_tracklet)

        def jump(other):
            return DISTANCE * np.mean(np.abs(_centred(tracklet.first) - _centred(other.last)) / self.scale)

        chains = [other.score - jump(other) for other in before if newest - other.end <= MEMORY]
        return max(chains) + own if chains else NONE

    def _answer(self, tracklet: Tracklet) -> tuple[np.ndarray, float]:
        small = 1e-5 * tracklet.to_first[-1]
        if tracklet.end != self.time:
            return tracklet.last, small - 1
        return tracklet.last, small + SHARES[0] * max(tracklet.to_first) + SHARES[1] * max(tracklet.to_tracklet)


def _centred(box: np.ndarray) -> np.ndarray:
    """Corners -> centre and size."""
    return np.concatenate(((box[:2] + box[2:]) / 2, box[2:] - box[:2]))
