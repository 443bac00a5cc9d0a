package pulp

import "testing"

func TestEmptyLayer(t *testing.T) {
	t.Parallel()
	if got := EmptyLayer.Algorithm().FromBytes(EmptyLayerContent()); got != EmptyLayer {
		t.Errorf("the digest of EmptyLayerContent is %s, want %s", got, EmptyLayer)
	}
}
